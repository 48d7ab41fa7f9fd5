module kube-audit-proxy/benchmarks/tools

go 1.25
