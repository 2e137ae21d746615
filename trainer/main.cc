// The entry point, and the only place that catches errors.
int main() { return 0; }
