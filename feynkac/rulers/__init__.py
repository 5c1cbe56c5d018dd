"""The ruler: laws of texts on one footing, by reward and by nats."""
