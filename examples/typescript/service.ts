// A service in TypeScript: it asks for a decision and says what came of it.
// tidemill.ts has the types of the loops; `npm run types` makes it from the worker's own description.
import createClient from "openapi-fetch";
import type { paths } from "./tidemill.js";

const baseUrl = process.env.TIDEMILL_URL ?? "http://localhost:8700";
const client = createClient<paths>({ baseUrl });

const decided = await client.POST("/v1/loops/my-loop/decisions", {
  body: { features: { country: "PT", visits: 3 } },
});
if (decided.error !== undefined || "batch" in decided.data) {
  throw new Error(decided.error?.hint ?? "one decision was asked for");
}
console.log(decided.data.action ? "show the banner" : "hide the banner", decided.data.source);

const told = await client.POST("/v1/loops/my-loop/feedback", {
  body: { decision_id: decided.data.id, kind: "clicked" },
});
if (told.error !== undefined) {
  throw new Error(told.error.hint);
}
console.log("feedback", told.response.status);
