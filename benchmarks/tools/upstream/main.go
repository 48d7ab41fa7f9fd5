// The API server's part in a benchmark: Go's own HTTPS server, as kube-apiserver is one (HTTP/2 for clients that speak
// it), with the same 3 KB object for every request. It must not be what limits the proxies in front of it.
//
// upstream CERTIFICATE KEY: prints its address.
package main

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
)

func main() {
	body := []byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"bench","namespace":"default"},"data":{"data":"` +
		strings.Repeat("x", 2900) + `"}}`)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Audit-Id", r.Header.Get("Audit-Id"))
		header.Set("Cache-Control", "no-cache, private")
		header.Set("Content-Type", "application/json")
		header.Set("X-Kubernetes-Pf-Flowschema-Uid", "f6a0b7a4-2f49-43a8-9d57-19f8b4f3c2aa")
		header.Set("X-Kubernetes-Pf-Prioritylevel-Uid", "4b7f2f3e-6c55-4d6b-8e3c-0a9d2a1b5c77")
		header.Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	server := http.Server{Handler: handler, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	log.Fatal(server.ServeTLS(listener, os.Args[1], os.Args[2]))
}
