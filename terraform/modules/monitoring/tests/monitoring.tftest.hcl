mock_provider "helm" {}

run "values" {
  variables {
    clusters        = ["eu-1"]
    disabled_alerts = ["ParallaxQueriesSlow"]
  }
  assert {
    condition     = yamldecode(helm_release.monitoring.values[0]).monitoring.prometheusRule.disabled == ["ParallaxQueriesSlow"]
    error_message = "disabled alerts"
  }
}

run "a_name_that_is_no_alert_of_ours_is_refused" {
  command = plan
  variables {
    disabled_alerts = ["QueriesSlow"]
  }
  expect_failures = [var.disabled_alerts]
}
