"""The chaos harness: real ranks get faults at random, seeded moments, and runs must end where undisturbed ones end."""
