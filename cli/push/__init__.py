"""`fewstep push`: the files of a bundle, its model card, and their upload to a hub of models."""
