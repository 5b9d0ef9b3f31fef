"""Whether and how to fine-tune: rules with their sources, and what a job does against them."""
