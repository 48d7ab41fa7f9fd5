package main

import (
	"context"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// PortForward answers every port of every pod with a small web page.
func (p *pods) PortForward(_ context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	near, far := net.Pipe()
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html>\n<title>%[1]s</title>\n<h1>Hello from pod %[1]s, port %[2]d</h1>\n",
			html.EscapeString(pod), port)
	})
	server := &http.Server{Handler: page, ReadHeaderTimeout: time.Minute}
	connection := &one{Conn: far, closed: make(chan struct{})}
	go func() { _ = server.Serve(&oneConnection{connection: connection}) }()
	go func() {
		_, _ = io.Copy(near, stream)
		_ = near.Close()
	}()
	_, _ = io.Copy(stream, near) // either side may go first: no error
	return far.Close()
}

// oneConnection is a listener with a single connection that waits until it is closed.
type oneConnection struct {
	connection *one
	given      bool
}

func (l *oneConnection) Accept() (net.Conn, error) {
	if l.given {
		<-l.connection.closed
		return nil, net.ErrClosed
	}
	l.given = true
	return l.connection, nil
}

func (l *oneConnection) Close() error   { return nil }
func (l *oneConnection) Addr() net.Addr { return l.connection.LocalAddr() }

type one struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *one) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
