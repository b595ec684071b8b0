package link

import (
	"context"
	"time"
)

// Sleep returns false if ctx ends meanwhile.
func Sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
