"""The studies behind the command ``fold-opt``, one file each."""
