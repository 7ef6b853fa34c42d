"""Several processes for one command: accelerate's launcher, with the configurations that lie here."""
