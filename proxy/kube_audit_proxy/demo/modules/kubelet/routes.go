package main

import (
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

const (
	idleTimeout   = 4 * time.Hour
	streamTimeout = 30 * time.Second
)

func routes(pods *pods) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", pods.serveLogs)
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
			options, err := remotecommand.NewOptions(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			remotecommand.ServeExec(w, r, pods, r.PathValue("pod"), "", r.PathValue("container"), r.URL.Query()["command"],
				options, idleTimeout, streamTimeout, remotecommand.SupportedStreamingProtocols)
		})
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
			options, err := remotecommand.NewOptions(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			remotecommand.ServeAttach(w, r, pods, r.PathValue("pod"), "", r.PathValue("container"),
				options, idleTimeout, streamTimeout, remotecommand.SupportedStreamingProtocols)
		})
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
			options, err := portforward.NewV4Options(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			portforward.ServePortForward(w, r, pods, r.PathValue("pod"), "", options, idleTimeout, streamTimeout,
				portforward.SupportedProtocols)
		})
	}
	return mux
}
