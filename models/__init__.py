"""The denoisers that come with fewstep: network, training recipe, and trained weights with a card. This package imports
nothing else of fewstep."""
