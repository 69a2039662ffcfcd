"""From a function of one sample to a batch: arrays, workers, answers."""
