"""Multilabel classification through a smooth top-k layer, differentiated in three ways."""
