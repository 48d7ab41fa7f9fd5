"""The listener for those who run the proxy: metrics, health, and the trail as a file to download.

`application` says what is served; `grafana_query` reads the arguments of a dashboard's link, `export` answers them;
`access` says who may; `metrics` and `health` tell what the processes say of themselves (`process/status.py`).
"""
