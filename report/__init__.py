"""The results that verbs show: the report page, the choice of a deployment, bundles, this machine, and pictures."""
