"""The trained model as a thing one can carry: its bundle and its predictor."""
