"""How a network learns: the module, its loss and schedule, and the trainer that keeps every promise of a run."""
