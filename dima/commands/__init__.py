"""The commands: each reads its options, calls one public function and prints what that answers."""
