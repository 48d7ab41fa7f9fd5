"""Where calls go: the clusters of the kubeconfig, and the proxy's credential for each."""
