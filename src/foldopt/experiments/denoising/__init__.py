"""Enhanced total variation: what is penalised is learned, by folding the dual proximal gradient."""
