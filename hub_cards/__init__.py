"""Facts and cards: the dataset folder in its published shape, described by what was measured."""
