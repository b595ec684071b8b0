package resume

// AsBeginning returns the point as the beginning of a stream.
func (p Place) AsBeginning() Place {
	p.From, p.Hash = p.Through, 0
	return p
}
