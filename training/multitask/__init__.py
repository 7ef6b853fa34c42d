"""Several tasks, each with its own data and head, over one body: trained on in turn, measured one by one."""
