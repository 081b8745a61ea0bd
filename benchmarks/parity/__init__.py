"""How far a resumed run is from an uninterrupted one, framework by framework: see docs/parity.md."""
