"""From conversations to packs: formats, chat template, shards, packing, the global order, batches."""
