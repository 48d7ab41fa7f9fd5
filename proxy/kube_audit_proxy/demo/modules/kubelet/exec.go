package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/creack/pty"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// How long output may go on after the command itself has ended, from children that it left in the background.
const drainTime = time.Second

// How long to take in what the client still sends: to close a connection with unread input resets it, and the output on
// its way to an old kubectl would be lost.
const inputTime = 200 * time.Millisecond

// What Ctrl-D sends.
const endOfInput = 4

type pods struct {
	logs string
	work string
}

// ExecInContainer runs the command and reports its exit code as a kubelet does.
func (p *pods) ExecInContainer(
	ctx context.Context, pod, _, _ string, argv []string, in io.Reader, out, errOut io.WriteCloser,
	tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	if len(argv) == 0 {
		return errors.New("no command")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	command := exec.CommandContext(ctx, argv[0], argv[1:]...)
	command.Dir = p.work
	command.Env = append(os.Environ(), "HOSTNAME="+pod)
	command.WaitDelay = drainTime
	run := runWithPipes
	if tty {
		run = runOnTerminal
	}
	err := run(command, in, out, errOut, resize)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended) && ended.ExitCode() >= 0:
		return utilexec.CodeExitError{Err: err, Code: ended.ExitCode()}
	case errors.As(err, &ended):
		return utilexec.CodeExitError{Err: err, Code: 137}
	case errors.Is(err, exec.ErrNotFound):
		return utilexec.CodeExitError{Err: fmt.Errorf("%s: not found", argv[0]), Code: 127}
	case errors.Is(err, exec.ErrWaitDelay):
		return nil
	}
	return err
}

func runWithPipes(
	command *exec.Cmd, in io.Reader, out, errOut io.WriteCloser, _ <-chan remotecommand.TerminalSize,
) error {
	// assigned only if there: an interface that holds a nil is not nil
	if out != nil {
		command.Stdout = out
	}
	if errOut != nil {
		command.Stderr = errOut
	}
	if in == nil {
		return command.Run()
	}
	// not command.Stdin, whose copying would keep Wait from returning while the client keeps its side open
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		_, _ = io.Copy(stdin, in)
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, in)
	}()
	err = command.Run()
	select {
	case <-taken:
	case <-time.After(inputTime):
	}
	return err
}

func runOnTerminal(
	command *exec.Cmd, in io.Reader, out, _ io.WriteCloser, resize <-chan remotecommand.TerminalSize,
) error {
	terminal, err := pty.Start(command)
	if err != nil {
		return err
	}
	defer terminal.Close()
	go func() {
		for size := range resize {
			_ = pty.Setsize(terminal, &pty.Winsize{Rows: size.Height, Cols: size.Width})
		}
	}()
	if in != nil {
		go func() {
			_, _ = io.Copy(terminal, in)
			_, _ = terminal.Write([]byte{endOfInput})
		}()
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		if out != nil {
			_, _ = io.Copy(out, terminal)
		}
	}()
	err = command.Wait()
	select {
	case <-copied:
	case <-time.After(drainTime):
	}
	return err
}
