//go:build tools

// Package tools keeps the requirement on kubectl in go.mod.
package tools

import _ "k8s.io/kubernetes/cmd/kubectl"
