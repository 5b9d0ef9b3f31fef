"""What happens on the GPUs: data, packing, model, engines, loss, checkpoint, evaluation, meters.

Importing this package imports no torch; `trainer.config` is the vocabulary that the launcher shares.
"""
