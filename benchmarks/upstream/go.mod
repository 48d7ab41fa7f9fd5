module kube-audit-proxy/benchmarks/upstream

go 1.24
