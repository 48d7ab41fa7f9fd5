package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crilogs "k8s.io/cri-client/pkg/logs"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

func (p *pods) serveLogs(w http.ResponseWriter, r *http.Request) {
	options, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	lines := flushed{w, http.NewResponseController(w)}
	_ = lines.control.Flush() // a follower waits for the headers
	_ = crilogs.ReadLogs(r.Context(), p.logFile(r.PathValue("container")), "", options, alwaysRunning{}, lines, lines)
}

// AttachContainer shows what the container logs from now on.
func (p *pods) AttachContainer(
	ctx context.Context, _, _, container string, _ io.Reader, out, errOut io.WriteCloser,
	_ bool, _ <-chan remotecommand.TerminalSize,
) error {
	options := &crilogs.LogOptions{TailLines: new(int64), Follow: true}
	return crilogs.ReadLogs(ctx, p.logFile(container), "", options, alwaysRunning{}, out, errOut)
}

func (p *pods) logFile(container string) string {
	path := filepath.Join(p.logs, filepath.Base(container)+".log")
	if _, err := os.Stat(path); err != nil {
		return filepath.Join(p.logs, "any.log")
	}
	return path
}

func logOptions(query url.Values) (*crilogs.LogOptions, error) {
	options := &crilogs.LogOptions{
		Follow:    query.Get("follow") == "true",
		Timestamp: query.Get("timestamps") == "true",
	}
	numbers := map[string]*int64{}
	for _, name := range []string{"tailLines", "limitBytes", "sinceSeconds"} {
		if !query.Has(name) {
			continue
		}
		number, err := strconv.ParseInt(query.Get(name), 10, 64)
		if err != nil {
			return nil, err
		}
		numbers[name] = &number
	}
	options.TailLines, options.LimitBytes = numbers["tailLines"], numbers["limitBytes"]
	if seconds := numbers["sinceSeconds"]; seconds != nil {
		options.Since = time.Now().Add(-time.Duration(*seconds) * time.Second)
	}
	if text := query.Get("sinceTime"); text != "" {
		since, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, err
		}
		options.Since = since
	}
	return options, nil
}

type flushed struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (f flushed) Write(data []byte) (int, error) {
	n, err := f.ResponseWriter.Write(data)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}

// alwaysRunning is the container runtime that a follower asks whether more lines may come.
type alwaysRunning struct{ criapi.RuntimeService }

func (alwaysRunning) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	status := &runtimeapi.ContainerStatus{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	return &runtimeapi.ContainerStatusResponse{Status: status}, nil
}
