// A front page in TypeScript: each request brings its articles, and feedback says which one was read.
// `npm run types` makes tidemill.ts while a worker serves ../front-page.yaml.
import createClient from "openapi-fetch";
import type { paths } from "./tidemill.js";

const baseUrl = process.env.TIDEMILL_URL ?? "http://localhost:8700";
const client = createClient<paths>({ baseUrl });

const decided = await client.POST("/v1/loops/front-page/decisions", {
  body: {
    features: { country: "PT", device: "phone" },
    items: [
      { id: "article-17", features: { topic: "sport", age_h: 2.5, words: 640 } },
      { id: "article-4", features: { topic: "politics", age_h: 0.5 } },
    ],
  },
});
if (decided.error !== undefined || "batch" in decided.data) {
  throw new Error(decided.error?.hint ?? "one decision was asked for");
}
console.log(decided.data.action.join(", "), decided.data.source);

const told = await client.POST("/v1/loops/front-page/feedback", {
  body: { decision_id: decided.data.id, kind: "read", item: "article-4", values: { seconds: 48 } },
});
if (told.error !== undefined) {
  throw new Error(told.error.hint);
}
console.log("feedback", told.response.status);
