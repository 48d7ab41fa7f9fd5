"""Who runs: one parent, gateway workers on one port, indexer, shipper and admin; each is started again if it dies."""
