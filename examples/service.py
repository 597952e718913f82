"""All that a service needs: ask for a decision, and later say what came of it."""

from tidemill import Client

flights = Client(["http://localhost:8700", "http://localhost:8701"]).loop("flight-delay")
features = {"carrier": "UA", "origin": "EWR", "destination": "IAH", "distance": 1400.0}
features |= {"hour": 17, "weekday": 2, "month": 7}

decision = flights.get_decision(features, entity="N14228")
print(f"{decision.action}, because of {decision.model_version or decision.source}")
# ... the flight lands, hours later and perhaps in another process ...
flights.log_feedback(decision.id, "arrived", arr_delay=42.0)
