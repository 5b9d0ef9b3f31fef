"""From conversations to micro-batches: packs, their global order, and what each step takes of it."""
