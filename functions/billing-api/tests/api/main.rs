//! The billing-api function, called as API Gateway calls it, with a stand-in for Stripe.

mod access;
mod charges;
mod checkout;
mod invoices;
mod portal;
mod stack;
mod stripe_customer;
mod subscription;
