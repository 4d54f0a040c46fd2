"""What each group costs in output error, divergence or score when it alone leaves fp32."""
