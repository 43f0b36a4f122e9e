"""Contains all the data models used in inputs/outputs"""

from .adjustment import Adjustment
from .adjustment_page import AdjustmentPage
from .adjustment_sums import AdjustmentSums
from .admitted_usage import AdmittedUsage
from .affected_customer import AffectedCustomer
from .affected_customers import AffectedCustomers
from .amount import Amount
from .analysis import Analysis
from .analyze import Analyze
from .billing_run import BillingRun
from .charge import Charge
from .charge_overage_by_plan import ChargeOverageByPlan
from .charge_page import ChargePage
from .charge_status import ChargeStatus
from .charge_summary import ChargeSummary
from .checkout import Checkout
from .counted_record import CountedRecord
from .covered_overage import CoveredOverage
from .create_customer import CreateCustomer
from .create_key import CreateKey
from .create_plan import CreatePlan
from .create_plan_version import CreatePlanVersion
from .created_webhook import CreatedWebhook
from .currency_amount import CurrencyAmount
from .current_usage import CurrentUsage
from .customer import Customer
from .customer_charge import CustomerCharge
from .customer_charge_page import CustomerChargePage
from .customer_page import CustomerPage
from .customer_subscription import CustomerSubscription
from .delivery_failure import DeliveryFailure
from .discrepancy import Discrepancy
from .erasure import Erasure
from .event import Event
from .event_kind import EventKind
from .events import Events
from .fail_mode import FailMode
from .failed_period import FailedPeriod
from .ingest_events import IngestEvents
from .ingested_event import IngestedEvent
from .ingested_events import IngestedEvents
from .ingested_outcome import IngestedOutcome
from .invoice import Invoice
from .invoice_page import InvoicePage
from .issued_key import IssuedKey
from .key import Key
from .key_counts import KeyCounts
from .key_stats import KeyStats
from .key_stats_by_plan import KeyStatsByPlan
from .key_status import KeyStatus
from .list_open_charges_status import ListOpenChargesStatus
from .listed_key import ListedKey
from .listed_key_page import ListedKeyPage
from .logged_event import LoggedEvent
from .logged_event_page import LoggedEventPage
from .metered_usage import MeteredUsage
from .model_usage import ModelUsage
from .month_policy_blocked import MonthPolicyBlocked
from .month_policy_overage import MonthPolicyOverage
from .month_policy_unlimited import MonthPolicyUnlimited
from .new_plan_version import NewPlanVersion
from .new_webhook import NewWebhook
from .open_charge import OpenCharge
from .open_charge_page import OpenChargePage
from .open_portal import OpenPortal
from .overage import Overage
from .overage_price import OveragePrice
from .overrides import Overrides
from .period import Period
from .pin import Pin
from .plan import Plan
from .plan_definition import PlanDefinition
from .plan_overage import PlanOverage
from .plan_page import PlanPage
from .plan_summary import PlanSummary
from .plan_version import PlanVersion
from .pong import Pong
from .portal import Portal
from .proof import Proof
from .quarantined import Quarantined
from .quarantined_details import QuarantinedDetails
from .quarantined_kind import QuarantinedKind
from .quarantined_page import QuarantinedPage
from .quarantined_ref import QuarantinedRef
from .quarantined_status import QuarantinedStatus
from .rated_calls import RatedCalls
from .rated_plan import RatedPlan
from .reconciliation import Reconciliation
from .reconciliation_summary import ReconciliationSummary
from .rejected import Rejected
from .replay import Replay
from .replayed import Replayed
from .role import Role
from .rotate_key import RotateKey
from .run_billing import RunBilling
from .signed_amount import SignedAmount
from .start_checkout import StartCheckout
from .stripe_link import StripeLink
from .submission_cadence import SubmissionCadence
from .subscription import Subscription
from .unbilled import Unbilled
from .unbilled_customer import UnbilledCustomer
from .unpaid import Unpaid
from .unpaid_consequence import UnpaidConsequence
from .update_customer import UpdateCustomer
from .update_key import UpdateKey
from .update_overrides import UpdateOverrides
from .update_plan import UpdatePlan
from .usage_records import UsageRecords
from .webhook import Webhook
from .webhooks import Webhooks

__all__ = (
    "Adjustment",
    "AdjustmentPage",
    "AdjustmentSums",
    "AdmittedUsage",
    "AffectedCustomer",
    "AffectedCustomers",
    "Amount",
    "Analysis",
    "Analyze",
    "BillingRun",
    "Charge",
    "ChargeOverageByPlan",
    "ChargePage",
    "ChargeStatus",
    "ChargeSummary",
    "Checkout",
    "CountedRecord",
    "CoveredOverage",
    "CreateCustomer",
    "CreatedWebhook",
    "CreateKey",
    "CreatePlan",
    "CreatePlanVersion",
    "CurrencyAmount",
    "CurrentUsage",
    "Customer",
    "CustomerCharge",
    "CustomerChargePage",
    "CustomerPage",
    "CustomerSubscription",
    "DeliveryFailure",
    "Discrepancy",
    "Erasure",
    "Event",
    "EventKind",
    "Events",
    "FailedPeriod",
    "FailMode",
    "IngestedEvent",
    "IngestedEvents",
    "IngestedOutcome",
    "IngestEvents",
    "Invoice",
    "InvoicePage",
    "IssuedKey",
    "Key",
    "KeyCounts",
    "KeyStats",
    "KeyStatsByPlan",
    "KeyStatus",
    "ListedKey",
    "ListedKeyPage",
    "ListOpenChargesStatus",
    "LoggedEvent",
    "LoggedEventPage",
    "MeteredUsage",
    "ModelUsage",
    "MonthPolicyBlocked",
    "MonthPolicyOverage",
    "MonthPolicyUnlimited",
    "NewPlanVersion",
    "NewWebhook",
    "OpenCharge",
    "OpenChargePage",
    "OpenPortal",
    "Overage",
    "OveragePrice",
    "Overrides",
    "Period",
    "Pin",
    "Plan",
    "PlanDefinition",
    "PlanOverage",
    "PlanPage",
    "PlanSummary",
    "PlanVersion",
    "Pong",
    "Portal",
    "Proof",
    "Quarantined",
    "QuarantinedDetails",
    "QuarantinedKind",
    "QuarantinedPage",
    "QuarantinedRef",
    "QuarantinedStatus",
    "RatedCalls",
    "RatedPlan",
    "Reconciliation",
    "ReconciliationSummary",
    "Rejected",
    "Replay",
    "Replayed",
    "Role",
    "RotateKey",
    "RunBilling",
    "SignedAmount",
    "StartCheckout",
    "StripeLink",
    "SubmissionCadence",
    "Subscription",
    "Unbilled",
    "UnbilledCustomer",
    "Unpaid",
    "UnpaidConsequence",
    "UpdateCustomer",
    "UpdateKey",
    "UpdateOverrides",
    "UpdatePlan",
    "UsageRecords",
    "Webhook",
    "Webhooks",
)
