"""Several tasks over one shared body, each with its own data and head: trained in turn, measured one by one."""
