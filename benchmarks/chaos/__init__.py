"""The chaos harness: real ranks are struck at random, seeded moments, and must end where undisturbed ones end."""
