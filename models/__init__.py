"""Reference denoisers: definition, training recipe, shipped weights with a card. Imports nothing else of fewstep."""
