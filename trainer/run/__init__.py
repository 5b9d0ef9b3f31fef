"""One attempt of a run: the loop, what each step trains on, when it saves, from where it resumes, what comes after."""
