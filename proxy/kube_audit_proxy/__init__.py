"""kube-audit-proxy: an audited gateway to Kubernetes.

The packages in the order a call meets them: `gateway` accepts it, `kube` says what it asks for, `identity` who it is
and which clusters they may call, `cluster` where those are, `audit` describes it, `journal` makes that durable,
`gateway` passes it on and streams the answer back. `index` and `telemetry` read the journal afterwards, `loki` what was
shipped; `admin` is for operators, `cli` is what people type.
"""

__version__ = "0.1.0"
PRODUCT = f"kube-audit-proxy/{__version__}"
