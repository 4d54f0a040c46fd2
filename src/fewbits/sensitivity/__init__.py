"""What each group costs in output error when it alone leaves fp32."""
