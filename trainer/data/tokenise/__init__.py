"""From texts to tokens and masks, in worker processes, with what became of every row."""
