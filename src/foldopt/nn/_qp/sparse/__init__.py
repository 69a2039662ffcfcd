"""The quadratic program layer where Q, G and A are sparse: no dense matrix is ever formed."""
