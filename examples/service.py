"""All that a service needs: ask for a decision, and later say what came of it."""

from tidemill import Client

flights = Client(["http://localhost:8700", "http://localhost:8701"]).loop("flight-delay")
features: dict[str, object] = {"carrier": "UA", "origin": "EWR", "destination": "IAH"}
features |= {"distance": 1400.0, "hour": 17, "weekday": "Tue", "month": "Jul"}

decision = flights.get_decision(features, entity="N14228")
print(f"{decision.action}, because of {decision.model_version or decision.source}")
# ... the flight lands, hours later and perhaps in another process ...
flights.log_feedback(decision.id, "arrived", arr_delay=42.0)
