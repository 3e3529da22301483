"""Language methods: the shape of the control half's, in torch. `methods.get(name, "language")` loads one."""
