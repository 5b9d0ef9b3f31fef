"""From conversations to texts, with the parts that the model is to write, through a chat template."""
