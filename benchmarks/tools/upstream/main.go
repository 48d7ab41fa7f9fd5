// The API server's part in a benchmark: Go's own HTTPS server, as kube-apiserver is one (HTTP/2 for clients that speak
// it), with the same 3 KB object for every request. It must not be what limits the proxies in front of it.
//
// A watch (?watch=1) is held open until the client goes; whenever a line comes on standard input, all of them get an event.
//
// upstream CERTIFICATE KEY: prints its address.
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

const event = `{"type":"MODIFIED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"bench","namespace":"default"}}}` + "\n"

// watchers is told of events: each closes the present channel, which all watches wait for.
type watchers struct {
	mutex sync.Mutex
	next  chan struct{}
}

func (w *watchers) wait() chan struct{} {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.next
}

func (w *watchers) tell() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	close(w.next)
	w.next = make(chan struct{})
}

func (w *watchers) serve(answer http.ResponseWriter, request *http.Request) {
	next := w.wait()
	flusher := answer.(http.Flusher)
	answer.Header().Set("Content-Type", "application/json")
	flusher.Flush()
	for {
		select {
		case <-next:
			next = w.wait()
			if _, err := answer.Write([]byte(event)); err != nil {
				return
			}
			flusher.Flush()
		case <-request.Context().Done():
			return
		}
	}
}

func main() {
	body := []byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"bench","namespace":"default"},"data":{"data":"` +
		strings.Repeat("x", 2900) + `"}}`)
	watching := watchers{next: make(chan struct{})}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Audit-Id", r.Header.Get("Audit-Id"))
		header.Set("Cache-Control", "no-cache, private")
		header.Set("X-Kubernetes-Pf-Flowschema-Uid", "f6a0b7a4-2f49-43a8-9d57-19f8b4f3c2aa")
		header.Set("X-Kubernetes-Pf-Prioritylevel-Uid", "4b7f2f3e-6c55-4d6b-8e3c-0a9d2a1b5c77")
		if strings.HasPrefix(r.URL.RawQuery, "watch=") {
			watching.serve(w, r)
			return
		}
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr())
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			watching.tell()
		}
	}()
	server := http.Server{Handler: handler, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	log.Fatal(server.ServeTLS(listener, os.Args[1], os.Args[2]))
}
