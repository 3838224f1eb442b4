"""What the commands show: the report page, the choice of a deployment, the contents of a bundle, this machine, and
images."""
