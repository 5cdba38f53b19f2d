"""Who may ask for what, and how often: API keys, their scopes, and a rate for each client."""
