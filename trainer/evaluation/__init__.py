"""How good is the model? Loss on held-out conversations, and answers to prompts."""
