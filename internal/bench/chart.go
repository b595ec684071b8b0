package main

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// panel is a title over horizontal bars.
type panel struct {
	title string
	bars  []bar
	label func(float64) string
}

type bar struct {
	name  string
	value float64
}

// chart draws panels below each other as SVG. It has no background, and its greys are legible on white and on black.
func chart(panels ...panel) string {
	const (
		width, left, right = 720, 150, 90
		line, title, gap   = 26, 30, 14
	)
	var b strings.Builder
	y := 0
	for _, p := range panels {
		fmt.Fprintf(&b, `<text x="0" y="%d" font-weight="bold">%s</text>`+"\n", y+18, html.EscapeString(p.title))
		y += title
		most := slices.MaxFunc(p.bars, func(a, b bar) int { return int(a.value*1e6 - b.value*1e6) }).value
		for _, x := range p.bars {
			colour := "#2f81f7"
			if !strings.HasPrefix(x.name, "walchan") && x.name[0] > '9' { // another's, and not a number
				colour = "#8b949e"
			}
			w := int(x.value / most * (width - left - right))
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+16, html.EscapeString(x.name))
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`, left, y+3, w, line-8, colour)
			fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", left+w+8, y+16, p.label(x.value))
			y += line
		}
		y += gap
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="13" fill="#768390">`+
		"\n%s</svg>\n", width, y, width, y, b.String())
}
